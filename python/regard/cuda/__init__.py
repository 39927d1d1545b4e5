"""The optional CUDA build: arrays on a device, and the kernels for them behind the functions of `regard.ops`.

An array on the device goes where a NumPy array goes: ``ops.linear_forward(x, weight)`` computes where ``x`` lies. What
is not written for the device raises ``NotImplementedError``; see ``docs/cuda.md``. Nothing here is imported, and no
library is loaded, before it is asked for.

Examples
--------
>>> from regard import cuda, ops  # doctest: +SKIP
>>> x, weight = cuda.asarray(x), cuda.asarray(weight)  # doctest: +SKIP
>>> y, _ = ops.linear_forward(x, weight)  # doctest: +SKIP
>>> y.numpy()  # doctest: +SKIP
"""

from regard.cuda.array import DeviceArray, DeviceWorkspace, asarray
from regard.cuda.library import device_name

__all__ = ["DeviceArray", "DeviceWorkspace", "asarray", "device_name"]
