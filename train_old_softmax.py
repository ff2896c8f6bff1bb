"""Train an old model with plain softmax: a linear layer with bias on the raw embedding (step 1).

    python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 --master_port=22222 \
        train_old_softmax.py configs/f128_r18_softmax_class30.py
"""

from engine.loop import main
from engine.method import Method
from losses import SoftmaxHead

METHOD, HEAD = Method, SoftmaxHead

if __name__ == "__main__":
    main(METHOD, HEAD)
