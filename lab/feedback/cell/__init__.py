"""The far side of the sandbox: what runs in a process of its own, locks itself up, and only then meets foreign code."""
