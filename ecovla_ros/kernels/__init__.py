"""Two operations with a Triton kernel beside a plain torch reference of the same signature.

`gated` is gate + up + activation + product with the channel energies in the epilogue; `rows` exchanges rows in place.
A CPU always runs the reference. On CUDA `gated.KernelChoice` times both
on the shapes that will run and keeps the faster.
"""
