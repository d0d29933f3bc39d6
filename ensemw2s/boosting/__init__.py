"""Phase 1: token weights, the α rules and the round loop."""

from ensemw2s.boosting.alpha import AlphaRule, WeightedError, weighted_error
from ensemw2s.boosting.draws import Draw, draw_training_set, loss_constant
from ensemw2s.boosting.loop import Booster, BoostingResult, Learner, RoundRecord
from ensemw2s.boosting.weights import Concentration, TokenLayout, concentration, example_weights, initial_weights

__all__ = [
    "AlphaRule",
    "Booster",
    "BoostingResult",
    "Concentration",
    "Draw",
    "Learner",
    "RoundRecord",
    "TokenLayout",
    "WeightedError",
    "concentration",
    "draw_training_set",
    "example_weights",
    "initial_weights",
    "loss_constant",
    "weighted_error",
]
