"""Fast versions of layers and of inference, each with the torch function that it replaces as its specification.

``native`` has the C++, ``interface`` its structures as Python sees them, ``packed`` the weights as kernels read them.
Nothing fails for want of a compiler: without the library torch does the work.
"""
