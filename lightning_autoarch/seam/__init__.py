"""The only modules that use private names of Lightning and of Optuna, one for each library and one for LightningCLI."""
