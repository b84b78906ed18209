"""Raster Vision experiments with fastai, on one machine or on a Kubernetes cluster.

This package is the client and the in-cluster driver. It starts in 100 ms and never imports
torch, rastervision or fastai; what does lives in the namespace packages
rastervision.fastai_backend and rastervision.kubernetes.
"""

__version__ = "0.1.0"
