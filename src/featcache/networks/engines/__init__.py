"""A frozen Keras model as the fastest callable this machine has.

On a CPU that is OpenVINO where it is installed, else TensorFlow with the variables frozen to
constants. On GPUs it is TensorFlow compiled by XLA; on CPUs XLA makes depthwise convolutions many
times slower and is never used. Which runtime it was changes the numbers by rounding only, and
that is checked at the start of each run (`agree`). Reduced precision is another matter: other
numbers, another fingerprint. OpenVINO is known to this package alone, and to the process in which
an exported file is run.
"""

from featcache.networks.engines.base import (
    MODELS_FOLDER,
    Compiled,
    ConversionCache,
    Images,
    Outputs,
    in_order,
)
from featcache.networks.engines.batch_size import chosen as batch_size_of
from featcache.networks.engines.choice import check_options, compile_frozen, gpus
from featcache.networks.engines.openvino import MODEL_FILES
from featcache.networks.engines.openvino import write as write_openvino
from featcache.networks.engines.parity import N_IMAGES, Closeness, agree
from featcache.networks.engines.programs import FILES as PROGRAM_FILES
from featcache.networks.engines.programs import keep as keep_programs
from featcache.networks.engines.tensorflow import constant_graph

__all__ = [
    "MODELS_FOLDER",
    "MODEL_FILES",
    "N_IMAGES",
    "PROGRAM_FILES",
    "Closeness",
    "Compiled",
    "ConversionCache",
    "Images",
    "Outputs",
    "agree",
    "batch_size_of",
    "check_options",
    "compile_frozen",
    "constant_graph",
    "gpus",
    "in_order",
    "keep_programs",
    "write_openvino",
]
