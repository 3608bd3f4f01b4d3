"""How good predictions are, and who finds the wrong labels. Plain NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import average_precision_score, roc_auc_score

from keras_swapout.consistency.labels import margins
from keras_swapout.study.measuring.scores import balanced, log_softmax, quality


def measures(
    test: np.ndarray, right: np.ndarray, validation: np.ndarray, given: np.ndarray
) -> dict[str, float]:
    """Of log probabilities: accuracy (balanced too), AUROC, likelihood, calibration.

    "fitted_..." are at the temperature that has the best likelihood of the validation labels, as
    they are given, and of two classes at the threshold with the best balanced accuracy there.
    """
    found = quality(test, right) | balanced(test, right)
    temperature = _temperature(validation, given)
    tempered = quality(test / temperature, right)
    found |= {"temperature": temperature}
    found |= {f"fitted_{name}": tempered[name] for name in ("nll", "ece")}
    if test.shape[1] == 2:
        shift = _threshold(validation[:, 1] - validation[:, 0], given)
        said = (test[:, 1] - test[:, 0] > shift).astype(int)
        found["fitted_accuracy"] = float((said == right).mean())
        found["fitted_balanced_accuracy"] = _balanced_accuracy(said, right)
    return found


def _temperature(log_p, labels):
    rows = np.arange(len(labels))

    def loss(log_t):
        return -log_softmax(log_p / np.exp(log_t))[rows, labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def _threshold(score, labels):
    """Of a score, the threshold above which class 1 is said, midway between two scores."""
    order = np.sort(score)
    candidates = (order[1:] + order[:-1]) / 2
    found = [_balanced_accuracy(score > c, labels) for c in candidates]
    return candidates[int(np.argmax(found))]


def _balanced_accuracy(said, labels):
    return float(np.mean([(said[labels == c] == c).mean() for c in np.unique(labels)]))


def listed(
    given: np.ndarray,
    right: np.ndarray,
    log_p: np.ndarray,
    areas: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    cleanlab: bool = False,
) -> dict:
    """What is known of the wrong training labels; nothing where there are none.

    Args:
        given, right: labels (n,).
        log_p: of the training images, at the end.
        areas, losses, mean: of each training image the means over the epochs, of margin, loss, p.
        cleanlab: whether to ask it, where it is installed.

    Returns:
        "memorised": of the wrongly labelled the shares predicted as given and as is right.
        "list": {score: AUROC and average precision of finding the wrong ones} and, of flags,
        precision and recall.
    """
    wrong = given != right
    if not wrong.any():
        return {}
    rows, said = np.arange(len(given)), log_p.argmax(axis=1)
    scores = {"self-confidence": -log_p[rows, given], "margin": -margins(log_p, given, "given")}
    if areas is not None:
        scores |= {"area under the margin": -areas, "mean loss": losses}
        scores["mean self-confidence"] = -mean[rows, given]
    flags, suggested = {"contradicted": said != given}, said
    if areas is not None:
        flags["negative area under the margin"] = areas < 0
        flags["contradicted on average"] = mean.argmax(axis=1) != given
        suggested = np.where(np.arange(mean.shape[1]) == given[:, None], -1, mean).argmax(axis=1)
    if cleanlab:
        more_scores, more_flags = _cleanlab(given, np.exp(log_p))
        scores, flags = scores | more_scores, flags | more_flags
    return {
        "memorised": {
            "given": float((said == given)[wrong].mean()),
            "right": float((said == right)[wrong].mean()),
        },
        "list": {
            name: {
                "auroc": float(roc_auc_score(wrong, score)),
                "average_precision": float(average_precision_score(wrong, score)),
            }
            for name, score in scores.items()
        }
        | {
            f"flagged: {name}": {
                "precision": float(wrong[flag].mean()) if flag.any() else None,
                "recall": float(flag[wrong].mean()),
                "suggested right": float((suggested == right)[flag & wrong].mean())
                if (flag & wrong).any()
                else None,
                "flagged": int(flag.sum()),
            }
            for name, flag in flags.items()
        },
    }


def _cleanlab(given, p):
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}, {}
    p = p / p.sum(axis=1, keepdims=True)
    scores = {
        f"cleanlab, {method}": -get_label_quality_scores(given, p, method=method)
        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    }
    filters = ("prune_by_noise_rate", "both", "confident_learning", "predicted_neq_given")
    flags = {
        f"cleanlab, {by}": find_label_issues(given, p, filter_by=by, n_jobs=1) for by in filters
    }
    return scores, flags
