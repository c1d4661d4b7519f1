"""Find an architecture for any LightningModule, make it small, start it from what is already known."""

from lightning_autoarch._version import __version__

__all__ = ["__version__"]
