"""stable-baselines3: a policy, and a buffer."""

from __future__ import annotations

import gymnasium
import numpy
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from ecosystem.entries import entry

SEEN, DONE = gymnasium.spaces.Box(-1, 1, (4,), numpy.float32), gymnasium.spaces.Discrete(2)


@entry(
    "`ActorCriticPolicy`",
    edit="another rate",
    use=lambda policy: policy.predict(numpy.ones((1, 4), numpy.float32), deterministic=True)[0],
)
def policy():
    made = ActorCriticPolicy(SEEN, DONE, lr_schedule=_rate, net_arch=[8, 8])
    made.optimizer.param_groups[0]["lr"] = 0.001
    return made


def _rate(progress):
    return 0.003 * progress


@entry("`ReplayBuffer`", edit="three steps added", use=lambda buffer: buffer.size())
def buffer():
    made = ReplayBuffer(10, SEEN, DONE, device="cpu")
    for number in range(3):
        now = numpy.full((1, 4), number / 4, numpy.float32)
        made.add(now, now, numpy.array([1]), numpy.array([0.5]), numpy.array([False]), [{}])
    return made
