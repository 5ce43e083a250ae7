"""Key/value caches of transformers as buffers that are updated in place.

A decoder exported with its cache takes `past` [.., T, ..] and gives `present` [.., T + S, ..], a copy of all of it for
each of S new tokens. Here the cache is one buffer with C slots, and a run writes the S slots from `past_length` on:

    present = concat(past, new)      ->  present = update_slice(past, past_length, new), in place
    softmax(scores over T + S keys)  ->  softmax(scores over C slots, -inf where a slot is not filled)

so that one plan serves every length, nothing is copied, and nothing is allocated. Attention does not care for the order
of its keys, hence only for masks it matters which slot is whose: slots are in the order of the tokens.

    pairs    which input is which output's past, and the sizes to import the model with, so that T + S = C
    length   refuses models that compute with T otherwise (positions), by comparing two imports
    slots    the rewriting, and the proof that nothing reads slots that are not filled
"""

from gpucompile.cache.pairs import KeyValueCache, find_pairs, free_dimensions, writes_cache
from gpucompile.cache.slots import import_with_cache, require_states, updated_outputs
from gpucompile.runtime.format import PAST_LENGTH

__all__ = [
    "PAST_LENGTH",
    "KeyValueCache",
    "find_pairs",
    "free_dimensions",
    "import_with_cache",
    "require_states",
    "updated_outputs",
    "writes_cache",
]
