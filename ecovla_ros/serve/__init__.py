"""The policy behind a websocket, in the protocols that the field's harnesses speak. No pickle, nothing unbounded."""
