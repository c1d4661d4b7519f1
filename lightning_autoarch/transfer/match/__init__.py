"""Which tensor of a source each tensor of a module takes, and in what shape. Nothing is written here."""
