"""The program in its container, under its Kubernetes manifests and against real servers; `make e2e` runs these."""
