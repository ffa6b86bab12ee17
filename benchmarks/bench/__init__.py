"""The benchmarks: what is compared with what, on which models and batches."""
