#!/usr/bin/env bash
# The whole job on synthetic faces, on two CPU cores and without a download: three old models, new models by every method and
# without the old model (the paragon), three of each, and the page that shows which of them can replace the old one.
#     bash demo.sh [options and settings of reproduce.sh, for example seed=669 --out demo_output/other_seeds]
# Results in demo_output/; demo_output/first/ is a page of the first method alone, after about a minute.
set -euo pipefail
cd "$(dirname "$0")"
source environment.sh requirements.txt
out=demo_output

SECONDS=0
echo "== Make synthetic faces: a training set, and an evaluation set of other people in IJB-C's layout"
python tools/rehearsal/make_rehearsal.py --out "$out/dataset" --size 32 --identities 500 --images 12 \
    --eval-identities 1500 --pairs 2

# The settings of --small, with a smaller network and fewer epochs. UniBCT refines in epochs 2 and 4 of 6, as in 10 and 20 of 35.
bash reproduce.sh OPclass --small --seeds 3 --backfill 4 --family softmax_to_arc_f128 \
    --methods MixBCT,L2,weakenedL2,BCT,BCT_as_published=BCT,UniBCT,NCCL,AdvBCT \
    --records "$out/dataset/ms1m-retinaface-t1" --ijb "$out/dataset/ijb" --out "$out" \
    --title "Synthetic faces: can the new model replace the old one?" \
    network=cnn_s num_epoch=6 BCT_as_published:bct_scale=1 "UniBCT:refine_epoch=[2,4]" "$@"
[ $# != 0 ] || echo "== $SECONDS s; the result is the page $out/compare/index.html"
