"""TTM and its sizes."""

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Ekambaram, Jati, Dayama, Mukherjee, Nguyen, Gifford, Reddy, Kalagnanam: Tiny Time Mixers (TTMs): Fast Pre-trained Models for Enhanced Zero/Few-Shot Forecasting of Multivariate Time Series, 2024, arXiv 2401.03955"
CITATION = """@inproceedings{ekambaram2024ttm,
  title     = {Tiny Time Mixers ({TTMs}): Fast Pre-trained Models for Enhanced Zero/Few-Shot Forecasting of Multivariate Time Series},
  author    = {Ekambaram, Vijay and Jati, Arindam and Dayama, Pankaj and Mukherjee, Sumanta and Nguyen, Nam H. and Gifford, Wesley M. and Reddy, Chandra and Kalagnanam, Jayant},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}"""

SYSTEMS = {
    "time_series/ttm": SystemEntry(
        target="modalities.time_series.models.ttm:TTM",
        title="forecasting model of tiny time mixers",
        what="A network without attention that reads the past of a series in patches and forecasts the next steps at once. Small MLPs mix the patches and the features of "
        "each patch, at several patch lengths, and a decoder may mix channels and read covariates that are known ahead. It is trained on many series of all kinds, and then "
        "forecasts series that it has never seen, without training (zero-shot) or after fine-tuning its decoder on a few.",
        paper=PAPER,
        citation=CITATION,
        limits="It reads a context of one length and forecasts a horizon of one length: shorter contexts are filled with missing values, longer horizons are rolled out, which "
        "is less certain than the model says. Without quantiles it says nothing of its certainty. Channels are forecast each by itself unless it was fine-tuned to mix them. "
        "Sudden changes that nothing in the context announces cannot be foreseen.",
        pipeline_tag="time-series-forecasting",
        tags=("ttm", "tinytimemixer", "forecasting", "zero-shot"),
        picture="History, what happened, and the forecast with intervals",
        snippet='batch = model.preprocess([[112.0, 118.0, 132.0, 129.0, 121.0, 135.0]])  # arrays, lists or pandas tables; NaN is missing\n'
        "forecast = model.forecast(batch, horizon=12)\n"
        "print(forecast.point)  # (1, 1, 12)",
        weights_licence="apache-2.0",
        exports={"official": "modalities.time_series.exporting:official_export"},
    ),
}

RECIPES = {
    "time_series/ttm-tiny": "modalities.time_series.recipes.ttm:ttm_tiny",
    "time_series/ttm-tiny-masked": "modalities.time_series.recipes.self_supervised:ttm_tiny_masked",
    "time_series/ttm-tiny-contrastive": "modalities.time_series.recipes.self_supervised:ttm_tiny_contrastive",
}

_OFFICIAL = (
    "huggingface.co/ibm-granite/granite-timeseries-ttm-r1 and -r2 (one revision for each context and horizon): fetch the files, then `zoo.from_pretrained(\"FOLDER\")`. Their config.json "
    "says their sizes, so that revisions of contexts 1024 and 1536 and the models of ibm-research load in the same way; those of ibm-research are CC-BY-NC-SA-4.0.",
)


def _ttm(horizon: int, parameters: int) -> ModelEntry:
    return ModelEntry(f"time_series/ttm-512-{horizon}", "time_series/ttm", f"TTM, context 512, horizon {horizon}, patches of 64", parameters, {"prediction_length": horizon}, None, _OFFICIAL)


_TINY = dict(
    context_length=512, prediction_length=64, patch_length=32, d_model=128, num_layers=2, adaptive_patching_levels=3, decoder_d_model=64, decoder_num_layers=1, dropout=0.0, head_dropout=0.0,
    missing="mean", resolution_prefix_tuning=True, frequency_token_vocab_size=10, multi_quantile_head=True, mq_hidden=32, mq_use_decoder_pool=True, mq_cond_path="flatten", mq_cond_mode="concat",
)
_BACKBONE = "Only the backbone is trained: decoder and heads are as they began, so it does not forecast before it is fine-tuned. "


def _embedding(how: str, what: str, paper: str, citation: str, limits: str) -> ModelEntry:
    """The small TTM, its backbone trained in another way."""
    words = {
        "what": f"A network without attention that reads the past of a series in patches and embeds it. {what}",
        "limits": _BACKBONE + limits,
        "paper": f"{paper}. The network: {PAPER}",
        "citation": f"{citation}\n\n{CITATION}",
        "pipeline_tag": "feature-extraction",
        "tags": ("ttm", "tinytimemixer", how),
        "picture": "What is seen, what is hidden, and what the model says of it" if how == "masked" else "",
        "snippet": "batch = model.preprocess([[112.0, 118.0, 132.0, 129.0, 121.0, 135.0]])  # arrays, lists or pandas tables; NaN is missing\n"
        "features = model.embed(batch)\n"
        "print(features.shape)  # (1, 128)",
    }
    return ModelEntry(f"time_series/ttm-tiny-{how}", "time_series/ttm", f"The small TTM, its backbone trained without forecasting ({how})", 403_834, _TINY, words=words)


MODELS = [
    ModelEntry("time_series/ttm-tiny", "time_series/ttm", "TTM of our own size with quantiles, context 512, horizon 64, patches of 32", 403_834, _TINY),
    _embedding(
        "masked",
        "Its backbone is trained to fill hidden patches of series from those that are seen, as in PatchTST.",
        "Nie, Nguyen, Sinthong, Kalagnanam: A Time Series is Worth 64 Words: Long-term Forecasting with Transformers, 2023, arXiv 2211.14730 (section 3.2)",
        "@inproceedings{nie2023patchtst,\n  title     = {A Time Series is Worth 64 Words: Long-term Forecasting with Transformers},\n"
        "  author    = {Nie, Yuqi and Nguyen, Nam H. and Sinthong, Phanwadee and Kalagnanam, Jayant},\n  booktitle = {International Conference on Learning Representations},\n  year      = {2023}\n}",
        "Patches of 32 points are hidden: a series with values in one patch only teaches nothing.",
    ),
    _embedding(
        "contrastive",
        "Its backbone is trained so that two pieces of a series have near embeddings and those of different series lie far apart: the loss of SimCLR on the crops with masked points of TS2Vec.",
        "Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, 2020, arXiv 2002.05709. The views: Yue et al. 2022, arXiv 2106.10466",
        "@inproceedings{chen2020simclr,\n  title     = {A Simple Framework for Contrastive Learning of Visual Representations},\n"
        "  author    = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},\n  booktitle = {International Conference on Machine Learning},\n  year      = {2020}\n}",
        "The embedding leaves out level and size, since each series is scaled; what changes along a series counts as little.",
    ),
    _ttm(96, 805_280), _ttm(192, 903_680), _ttm(336, 1_051_280), _ttm(720, 1_444_880),
]
