#!/usr/bin/env bash
# Re-grounding around verl: 20 steps of GRPO, 100 projected, twelve times over.
#
#     MODEL=path/to/base DATA=path/to/data OUT=path/to/run examples/verl_regrounding.sh
#
# The preset adds what driftline has to say to verl: the model of each cycle, how many steps it is to make, where it
# saves, and that Hugging Face weights are among what it saves. All else is yours, as in a plain launch. Stopped at any
# point, the same call goes on with what is not finished. TRAINER names another command: the tests put a stand-in there,
# since they have no verl.
set -euo pipefail

exec driftline reground --preset verl \
    --model "$MODEL" --m "${M:-20}" --n "${N:-100}" --cycles "${CYCLES:-12}" --out "$OUT" -- \
    ${TRAINER:-python -m verl.trainer.main_ppo} \
    algorithm.adv_estimator=grpo \
    data.train_files="$DATA/train.parquet" \
    data.val_files="$DATA/test.parquet" \
    data.train_batch_size=128 \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.rollout.n=16 \
    trainer.n_gpus_per_node="${GPUS:-8}" \
    trainer.logger='["console"]'
