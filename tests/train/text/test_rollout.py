"""Rollouts take the sampler's steps: what is revealed is what the model was sure of, and the rest stays hidden."""

import torch

from redraft.models.checkpoint import Checkpoint
from redraft.train.text.adapters import Full, TrainedModel
from redraft.train.text.batch import pack
from redraft.train.text.encoding import Encoder
from redraft.train.text.objective import MaskObjective, ObjectiveConfig
from redraft.train.text.rollout import Sampler, roll_out
from tests.train.text.conftest import several


def test_a_rollout_reveals_what_is_surest_step_by_step(found: Checkpoint, encoder: Encoder) -> None:
    """Against a greedy loop over full softmaxes."""
    threshold, steps = 0.5, 2
    config = ObjectiveConfig(rollout_share=1.0, rollout_from=0.0, rollout_steps=steps, rollout_threshold=threshold)
    examples = MaskObjective(config, encoder.mask_token, 4096).examples(encoder.encode(several()), 0, 0.0)
    model = TrainedModel("tiny", found, found.load("float32"), Full())
    batch, reference = pack(examples), pack(examples)
    roll_out(Sampler(model, threshold, steps + 1), batch)
    flat = reference.tokens
    for number in range(1, steps + 1):
        with torch.no_grad():
            probabilities = model.logits(model.hidden(reference)).softmax(-1)
        for canvas in reference.canvases:
            if canvas.sampled_steps < number:
                continue
            own = probabilities[canvas.first : canvas.first + len(canvas.clean)]
            confidence, argmax = own.max(-1)
            confidence[~canvas.hidden] = -1
            accepted = (confidence >= threshold) & canvas.hidden
            accepted[confidence.argmax()] = True
            accepted &= argmax != encoder.mask_token
            flat[canvas.first + 1 + accepted.nonzero()[:, 0]] = argmax[accepted]
            canvas.hidden = canvas.hidden & ~accepted
    assert torch.equal(batch.tokens, reference.tokens)
    for one, other in zip(batch.canvases, reference.canvases, strict=True):
        assert torch.equal(one.hidden, other.hidden)
    assert any(canvas.hidden.sum() < canvas.free.sum() for canvas in batch.canvases)
    # Only what is still hidden is scored, against the clean text.
    targets = batch.targets()
    assert int(targets.canvas.sum()) == sum(int(canvas.hidden.sum()) for canvas in batch.canvases)
