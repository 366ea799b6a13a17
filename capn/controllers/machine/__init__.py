"""The NestedMachine's reconciler: one file a phase, in the order in which `reconciler.PHASES` runs them."""
