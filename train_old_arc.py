"""Train an old model with ArcFace: the plain method, a sharded margin head (step 1).

    python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 --master_port=22222 \
        train_old_arc.py configs/f512_r18_arc_class30.py
"""

from engine.loop import main
from engine.method import Method

METHOD = Method

if __name__ == "__main__":
    main(METHOD)
