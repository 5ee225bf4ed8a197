"""The draft/target runtime client: endpoints, token-exact transcripts, chains.

Importing this package imports sglang, with the CPU engine enabled where the machine has no GPU.
"""

import warnings

from a1_sgl.launch.cpu_engine import enable

enable()

from a1_sgl.runtime.chain import Chain, run_chains  # noqa: E402
from a1_sgl.runtime.endpoint import Endpoint  # noqa: E402
from a1_sgl.runtime.pair import DraftTarget  # noqa: E402
from a1_sgl.runtime.transcript import Transcript  # noqa: E402

# A chain raises what its worker thread raised; SGLang's own warning would show it twice.
warnings.filterwarnings("ignore", message="Error in stream_executor")

__all__ = ["Chain", "DraftTarget", "Endpoint", "Transcript", "run_chains"]
