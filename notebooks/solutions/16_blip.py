"""A solution of the exercise of notebook 16: the number to beat."""

from t2ilib.metrics.captions import caption_scores


def shifted_bleu(captions, references):
    total = 0.0
    for k in range(1, len(captions)):
        total += caption_scores(captions, references[k:] + references[:k]).bleu[0]
    return total / (len(captions) - 1)


four = ["a red heart", "a blue heart", "a dog", "the sun"]
scores = [caption_scores(four, four[k:] + four[:k]).bleu[0] for k in (1, 2, 3)]
assert abs(shifted_bleu(four, four) - sum(scores) / 3) < 1e-9
assert round(shifted_bleu(four, four), 2) == 0.27
