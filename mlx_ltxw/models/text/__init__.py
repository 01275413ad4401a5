"""LTX-2.3's text path: Gemma-3 hidden states, features, connectors."""

from mlx_ltxw.models.text.connectors import ConnectorConfig, Connectors, ConnectorsConfig
from mlx_ltxw.models.text.encoder import TextEncoder
from mlx_ltxw.models.text.features import FeatureExtractor, FeatureExtractorConfig
from mlx_ltxw.models.text.gemma import Gemma
from mlx_ltxw.models.text.gemma_config import GemmaConfig
from mlx_ltxw.models.text.tokenizer import PROMPT_TOKENS, PromptTokenizer

__all__ = [
    "PROMPT_TOKENS",
    "ConnectorConfig",
    "Connectors",
    "ConnectorsConfig",
    "FeatureExtractor",
    "FeatureExtractorConfig",
    "Gemma",
    "GemmaConfig",
    "PromptTokenizer",
    "TextEncoder",
]
