"""The YAML loader of everything but rvk8s.yaml: libyaml's, ten times as fast, if PyYAML has it."""

import yaml

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
