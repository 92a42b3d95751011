"""Executors of qvit modules. Contract: run(module, inputs) -> outputs, equal to the semantics for every op."""
