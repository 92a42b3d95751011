"""A systolic accelerator: its instruction set, programs for it, and a simulator of values, cycles and energy."""
