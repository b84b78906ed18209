"""What is known of runs, wherever they run: found, shown, followed and ended."""
