"""Tests of the container, the Kubernetes manifests and runs against real servers; `make e2e` runs them."""
