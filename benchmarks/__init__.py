"""The workloads of design section 12, on this project and on its peers, in one run. See README.md."""
