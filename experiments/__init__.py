"""The command line, experiment configs, stages, benchmarks and reports. May import everything."""
