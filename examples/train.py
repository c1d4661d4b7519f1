"""The command line in a script of your own.

python train.py search --config search.yaml && python train.py fit --config best.yaml
"""

from lightning_autoarch.cli import AutoArchCLI

if __name__ == "__main__":
    AutoArchCLI()  # AutoArchCLI(MyModule, MyData): then the config needs no class_path
