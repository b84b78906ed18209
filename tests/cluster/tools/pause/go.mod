module rvk8s/tests/cluster/tools/pause

go 1.25.0
