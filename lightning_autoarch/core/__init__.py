"""The ground floor: errors, checks, names, files. It imports nothing of the package, neither Lightning nor Optuna."""
