"""The qvit dialect: operations, attributes, verifiers, and the semantics that every backend is held to."""
