"""From an integer-only @main to a program: tensors get homes, operations become tasks, tasks addresses, an order and tokens."""
