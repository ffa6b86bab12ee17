"""One loop for the iterative methods: collect, label, select, update, evaluate."""
