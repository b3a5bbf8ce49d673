"""The pi0 family: one lean implementation for pi0's anatomy and for mini, the policy that comes with this package."""
