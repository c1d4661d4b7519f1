"""What Lightning saves of a constructor's call, and the call that is made of it: for every way to save."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from dataclasses import InitVar, dataclass, field
from typing import Any

import lightning as L
import pytest
import torchmetrics
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

from lightning_autoarch import SpaceError
from lightning_autoarch.training.arguments import Constructor
from lightning_autoarch.training.nested import alike, replaced


class Saving(L.LightningModule):
    """A base class that saves, and leaves the rest to its kin."""

    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, width)


class Extra(L.LightningModule):
    """Takes any keyword, as the modules of whole libraries do."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, width)


class OnlyExtra(Saving):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class OnlyExtraSavesToo(Saving):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.save_hyperparameters(logger=False)


class OfHalf(Saving):
    """Hands down an argument of the base class that it has made itself."""

    def __init__(self, half: int = 4, **kwargs: Any) -> None:
        super().__init__(width=2 * half, **kwargs)


class SavesFirst(Saving):
    def __init__(self, depth: int = 1, width: int = 8, **kwargs: Any) -> None:
        self.save_hyperparameters()
        super().__init__(width=width, **kwargs)


class Notes(OnlyExtra):
    """Saves what is no argument of anything."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters({"note": "of no use to __init__"})


class ByName(L.LightningModule):
    def __init__(self, width: int = 8, lr: float = 0.01, loss: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters("width", "lr")
        self.net = nn.Linear(3, width)


class Ignoring(L.LightningModule):
    def __init__(self, width: int = 8, loss: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["loss"])
        self.net = nn.Linear(3, width)


class OfItself(L.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.hparams["width"] = width
        self.save_hyperparameters(self.hparams)
        self.net = nn.Linear(3, width)


class OfDict(L.LightningModule):
    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters({"width": width, "lr": lr, "more": 1})
        self.net = nn.Linear(3, width)


class Keywords(L.LightningModule):
    """Has an argument called as Lightning calls what it saves by names."""

    def __init__(self, kwargs: dict[str, Any], width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(kwargs["inputs"], width)


METRIC = torchmetrics.MeanSquaredError()


class WithMetric(L.LightningModule):
    """A metric compared with anything is true: Lightning takes `loss` for what was saved."""

    def __init__(self, width: int = 8, inputs: Any = None, loss: Any = METRIC) -> None:
        super().__init__()
        self.save_hyperparameters({"width": width, "inputs": inputs})
        self.net, self.loss = nn.Linear(inputs, width), loss


class MetricGiven(L.LightningModule):
    def __init__(self, loss: Any = None, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters({"width": width})
        self.net, self.loss = nn.Linear(3, width), loss


class Transform:
    """Without an equality: a copy of it is not equal to it."""


class ForecastBase(L.LightningModule):
    """Saves what is left, without the objects, as libraries of forecasting models do."""

    def __init__(self, transform: Any = None, loss: Any = None, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters({"transform": transform, "lr": lr})
        self.loss = loss


class Forecast(ForecastBase):
    """A loss is given and not saved, nor is it the container of the rest."""

    def __init__(self, width: int = 4, loss: Any = None, **kwargs: Any) -> None:
        loss = torchmetrics.MeanSquaredError() if loss is None else loss
        super().__init__(loss=loss, **kwargs)
        self.save_hyperparameters({"width": width})
        self.net = nn.Linear(3, width)


class InOne(L.LightningModule):
    def __init__(self, cfg: Any, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)
        self.net = nn.Linear(3, self.hparams["width"])


class Attributes(L.LightningModule):
    """Reads a Namespace in ways that a dict would not bear."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.save_hyperparameters(args)
        self.args = args
        self.net = nn.Linear(3, vars(args)["width"])


class Vars(L.LightningModule):
    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.save_hyperparameters(vars(args))
        assert isinstance(args, Namespace)
        self.net = nn.Linear(3, args.width)


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 8


@dataclasses.dataclass(frozen=True)
class Config:
    inner: Inner
    lr: float = 0.01


class AsDict(L.LightningModule):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.save_hyperparameters(dataclasses.asdict(cfg))
        self.cfg = cfg
        self.net = nn.Linear(3, cfg.inner.width)


class Either(L.LightningModule):
    """Both calls are possible; only the one by the container saves the same again."""

    def __init__(self, cfg: Any = None, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)
        self.net = nn.Linear(3, width if cfg is None else cfg["width"])


class EmptyData(L.LightningDataModule):
    def __init__(self, batch_size: int = 8, **kwargs: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


MADE = {
    "all": Saving(lr=0.5),
    "**kwargs": Extra(lr=0.5),
    "**kwargs passed on": OnlyExtra(lr=0.5),
    "*args passed on": OnlyExtra(8, 0.5),
    "**kwargs saved twice": OnlyExtraSavesToo(8, lr=0.5),
    "**kwargs saved first": SavesFirst(lr=0.5),
    "**kwargs and a note": Notes(lr=0.5),
    "names": ByName(lr=0.5),
    "ignore": Ignoring(),
    "hparams": OfItself(),
    "dict": OfDict(lr=0.5),
    "an argument `kwargs`": Keywords({"inputs": 3}),
    "a metric by default": WithMetric(inputs=3),
    "a metric": MetricGiven(torchmetrics.MeanSquaredError()),
    "a metric and an object": Forecast(8, transform=Transform(), lr=0.5),
    "a dict": InOne({"width": 8, "lr": 0.5}),
    "an AttributeDict": InOne(AttributeDict(width=8, lr=0.5)),
    "a Namespace": InOne(Namespace(width=8, lr=0.5)),
    "a Namespace that is kept": Attributes(Namespace(width=8, lr=0.5)),
    "vars of a Namespace": Vars(Namespace(width=8, lr=0.5)),
    "one of two": Either({"width": 8}),
}


@pytest.mark.parametrize("way", MADE)
def test_the_same_again_but_for_what_is_changed(way: str) -> None:
    module = MADE[way]
    constructor = Constructor.of(module)
    constructor.check_names(["width"])
    before = dict(module.hparams)
    made = constructor.make({"width": 152})
    assert made.net.out_features == 152
    assert alike(dict(made.hparams), {**before, "width": 152})
    assert constructor.make({}).net.out_features == module.net.out_features == 8
    constructor.initialise_(made, {"width": 9})
    assert made.net.out_features == made.hparams["width"] == 9
    assert dict(module.hparams) == before


def test_an_argument_that_a_class_hands_down_itself_is_left_out() -> None:
    constructor = Constructor.of(OfHalf(half=6, lr=0.5))
    assert constructor.saved == {"half": 6, "width": 12, "lr": 0.5}
    made = constructor.make({"half": 5})
    assert made.net.out_features == 10
    assert dict(made.hparams) == {"half": 5, "width": 10, "lr": 0.5}
    with pytest.raises(SpaceError, match=r"`width` of the space is no argument that OfHalf.__init__ passes on"):
        constructor.make({"width": 5})


def test_a_type_error_of_the_module_is_its_own() -> None:
    class Wrong(Extra):
        def __init__(self, width: int = 8, **kwargs: Any) -> None:
            super().__init__(width=width, **kwargs)
            if width == 9:
                nn.Linear(3, width, wide=True)

    with pytest.raises(TypeError, match="'wide'"):
        Constructor.of(Wrong(lr=0.5)).make({"width": 9})


def test_a_datamodule() -> None:
    made = Constructor.of(EmptyData(root="here")).make({"batch_size": 3})
    assert dict(made.hparams) == {"batch_size": 3, "root": "here"}


def test_a_module_that_is_a_default_is_not_shared() -> None:
    constructor = Constructor.of(WithMetric(inputs=3))
    first, second = constructor.make({}), constructor.make({})
    assert first.loss is not second.loss and first.loss is not MADE["a metric by default"].loss


class TestInside:
    """Names with dots."""

    def of(self, cfg: Any) -> Constructor:
        return Constructor.of(Keeping(cfg))

    @pytest.mark.parametrize("kind", [dict, AttributeDict, lambda **kw: Namespace(**kw)], ids=["dict", "attr", "ns"])
    def test_of_what_is_saved_as_an_argument(self, kind: Any) -> None:
        cfg = kind(width=8, other=[1])
        made = self.of(cfg).make({"cfg.width": 5})
        assert made.net.out_features == 5
        assert type(made.hparams["cfg"]) is type(cfg)
        assert cfg == kind(width=8, other=[1])

    def test_of_a_dataclass(self) -> None:
        made = self.of(Config(Inner(8))).make({"cfg.inner.width": 5})
        assert made.hparams["cfg"] == Config(Inner(5))
        assert made.net.out_features == 5

    def test_of_a_container_with_or_without_its_name(self) -> None:
        for name in ("width", "cfg.width"):
            constructor = Constructor.of(InOne({"width": 8}))
            constructor.check_names([name])
            assert constructor.make({name: 5}).net.out_features == 5

    def test_of_a_dataclass_that_is_saved_as_a_dict(self) -> None:
        constructor = Constructor.of(AsDict(Config(Inner(8))))
        for name in ("inner.width", "cfg.inner.width"):
            constructor.check_names([name])
            made = constructor.make({name: 5})
            assert made.cfg == Config(Inner(5)) and made.hparams["inner"] == {"width": 5}

    @pytest.mark.parametrize(
        ("cfg", "name", "said"),
        [
            ({"width": 8, "lr": 1}, "cfg.widht", "`cfg` has no `widht`, but `width`, `lr`. Did you mean `width`?"),
            ({"a": {"b": 1}}, "cfg.a.c", "`cfg.a` has no `c`, but `b`."),
            ({"a": 1}, "cfg.a.c", "`cfg.a` is 1, in which no value can be replaced"),
            (
                {"a": {"class_path": "x.Y", "init_args": {"dim": 1}}},
                "cfg.a.dim",
                "`cfg.a` has no `dim`, but `class_path`, `init_args`. Did you mean `cfg.a.init_args.dim`?",
            ),
            (object(), "cfg.width", "`cfg` is a object, in which no value can be replaced. Expected a dict, a Names"),
            ({"width": 8}, "config.width", "`config.width` of the space is no argument of Keeping.__init__. Did you"),
            ({"width": 8}, "lr.width", "`lr` is 0.01, in which no value can be replaced"),
        ],
    )
    def test_names_that_lead_nowhere(self, cfg: Any, name: str, said: str) -> None:
        with pytest.raises(SpaceError) as raised:
            self.of(cfg).check_names([name])
        assert said in str(raised.value)

    def test_of_what_is_not_saved(self) -> None:
        with pytest.raises(
            SpaceError,
            match=r"inside of `loss`, which Ignoring does not save: .*save_hyper.* or .*factory=",
        ):
            Constructor.of(Ignoring(loss={"scale": 1})).check_names(["loss.scale"])


class Keeping(L.LightningModule):
    """Saves one argument that holds others."""

    def __init__(self, cfg: Any, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        width = cfg.inner.width if isinstance(cfg, Config) else dict(_items(cfg)).get("width", 1)
        self.net = nn.Linear(3, width)


def _items(cfg: Any) -> Any:
    return cfg if isinstance(cfg, dict) else getattr(cfg, "__dict__", {})


class TestNames:
    @pytest.mark.parametrize(
        ("module", "name", "said"),
        [
            (
                Saving(),
                "widht",
                "is no argument of Saving.__init__. Did you mean `width`? Its arguments are `width`, `lr`",
            ),
            (Saving(), "learning_rate", "Did you mean `lr`?"),
            (Saving(), "batch_size", "Did you mean `data.batch_size`?"),
            (InOne({"width": 8, "depth": 2}), "heads", "Its arguments are `lr`, `width`, `depth`."),
        ],
    )
    def test_unknown_ones_and_the_nearest(self, module: L.LightningModule, name: str, said: str) -> None:
        with pytest.raises(SpaceError) as raised:
            Constructor.of(module).check_names([name], elsewhere=["data.batch_size"])
        assert said in str(raised.value)

    def test_what_a_base_class_saved_is_no_argument(self) -> None:
        class Narrow(Saving):
            def __init__(self, half: int = 4) -> None:
                super().__init__(width=2 * half)

        constructor = Constructor.of(Narrow())
        assert constructor.saved == {"half": 4, "width": 8, "lr": 0.01}
        constructor.check_names(["half"])
        with pytest.raises(SpaceError, match=r"`width` of the space is no argument of Narrow.__init__"):
            constructor.check_names(["width"])

    def test_an_argument_beside_the_container(self) -> None:
        constructor = Constructor.of(InOne({"width": 8}))
        constructor.check_names(["lr"])
        assert set(constructor.arguments({"lr": 0.5})) == {"cfg", "lr"}


class TestDataclassesWithMore:
    def test_what_was_set_after_init_and_does_not_depend_on_the_change_is_kept(self) -> None:
        @dataclass
        class Config:
            width: int = 4
            classes: int = field(init=False, default=2)

        config = Config()
        config.classes, config.names = 10, ["a"]  # type: ignore[attr-defined]
        changed = replaced(config, ("width",), 8)
        assert (changed.width, changed.classes, changed.names) == (8, 10, ["a"])

    def test_what_depends_on_an_init_var_is_refused(self) -> None:
        @dataclass
        class Config:
            width: int = 4
            more: InitVar[int] = 3

            def __post_init__(self, more: int) -> None:
                self.total = self.width + more

        assert replaced(Config(), ("width",), 8).total == 11  # the default, which is known
        with pytest.raises(SpaceError, match="`total` depends on it"):
            replaced(Config(4, 7), ("width",), 8)

    def test_an_init_var_without_a_default_is_refused(self) -> None:
        @dataclass
        class Config:
            width: int
            more: InitVar[int]

        with pytest.raises(SpaceError, match=r"`width` of a Config cannot be replaced: .*more"):
            replaced(Config(4, 7), ("width",), 8)


def test_a_module_whose_new_sets_attributes_is_made_again_in_place() -> None:
    class Made(L.LightningModule):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__new__(cls)
            made.__dict__["widths"] = [1]
            return made

        def __init__(self, width: int = 4) -> None:
            widths = self.__dict__["widths"]
            super().__init__()
            self.save_hyperparameters()
            self.of = [*widths, width]

    module = Made()
    Constructor.of(module).initialise_(module, {"width": 8})
    assert module.of == [1, 8]
