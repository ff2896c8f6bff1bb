#!/usr/bin/env bash
# The whole job on drawn faces, on two CPU cores and without a download: an old model, new ones by MixBCT and without
# the old model (the paragon), and the question which of them works with the old gallery.  Results in demo_output/.
#     bash demo.sh [--all]        --all: by every method, into demo_output/all/
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-}" in
    "") methods="MixBCT" ;;
    --all) methods="MixBCT L2 weakenedL2 BCT BCT_as_published UniBCT NCCL AdvBCT" ;;
    *) echo "usage: bash demo.sh [--all]" >&2; exit 2 ;;
esac
case $PWD in *[[:space:]]*) echo "error: expected a path without spaces, found $PWD; move the project" >&2; exit 1 ;; esac
source environment.sh requirements.txt
set -f              # settings hold brackets

export top=$PWD out=$PWD/demo_output${1:+/all}
sd=f128_r18_softmax
# The same settings for old and new models; fp16 off: this network is as fast in float32, and figures depend less on the CPU.
export small="dataset=$out/dataset/ms1m-retinaface-t1 feature_save=$out/feature_save network=mbf image_size=32
    batch_size=64 num_epoch=8 warmup_epoch=1 scale=16 margin_list=(1.0,0.2,0.0) val_targets=['rehearsal'] frequent=30
    workers=1 fp16=False"
step() { printf '\n== %s (%d s since the start)\n' "$*" $SECONDS; }

new_model() {       # new_model NAME: train it on one core
    local settings="$small lr=0.2 clip=100 old_model=$out/old/model.pt output=$out/$1" folder=BCT_Methods/$1 kind=$1
    local train=train.py begin=$SECONDS
    case $1 in
        weakenedL2) folder=BCT_Methods/L2 ;;
        BCT) settings+=" bct_scale=16" ;;                           # as in the classification loss
        BCT_as_published) folder=BCT_Methods/BCT kind=BCT; settings+=" bct_scale=1" ;;
        UniBCT) settings+=" bct_scale=16 refine_epoch=[2,5]" ;;     # of 8 epochs, as 10 and 20 of 35
    esac
    local config=configs/OPclass_ms1mv3_r18_to_r50_${kind}_softmax_to_arc_f128.py
    if [ "$1" = paragon ]; then
        folder=. train=train_old_arc.py config=configs/f128_r50_arc_data100.py settings+=" rec=train_part_70_class"
    fi
    cd "$top/$folder" && OMP_NUM_THREADS=1 python "$train" "$config" $settings 2>&1 | sed -u "s/^/$1  /" || return
    echo "$1: trained in $((SECONDS - begin)) s"
}

tables() {          # tables NAME: alone and on the old gallery, 1:1 and 1:N
    local ijbc="python tools/ijbc_eval/ijbc_eval.py -d $out/dataset/ijb --out $out/ijbc_result --workers 1 -m=$out/$1/model.pt -net=mbf"
    for search in "" -N; do
        $ijbc $search || return
        [ "$1" = old ] || $ijbc -m_old="$out/old/model.pt" -old_net=mbf $search || return
    done
}

evaluate() {        # evaluate NAME: its tables into a file
    tables "$1" > "$out/$1.tables" 2>&1 || { cat "$out/$1.tables" >&2; return 1; }
    echo "$1: evaluated, tables in $out/$1.tables"
}

two_at_a_time() {   # two_at_a_time FUNCTION NAME...: the first failure is named and ends it
    local function=$1
    shift
    export -f "$function" tables
    printf '%s\n' "$@" | xargs -P 2 -I NAME bash -o pipefail -c "$function NAME || { echo 'NAME failed' >&2; exit 255; }"
}

SECONDS=0
step "Draw faces: a training set, verification pairs, an IJB-C look-alike"
python tools/rehearsal/make_rehearsal.py --out "$out/dataset" --size 32 --identities 500 --images 12 \
    --eval-identities 300 --pairs 400
python tools/split_dataset/split_dataset_ms1mv3.py --data "$out/dataset/ms1m-retinaface-t1"

step "1  Old model: softmax on 30 % of the identities"
python train_old_softmax.py configs/${sd}_class30.py $small lr=0.1 output="$out/old"

step "2  Its features of the other 70 %, which of them are credible, and their class means"
python tools/get_feature/get_feature.py configs/${sd}_class30.py --SD ${sd}_class70 $small output="$out/old"
python tools/get_feature/denoise_credible.py --T 0.9 --SD ${sd}_class70 --feature-save "$out/feature_save"
python tools/get_feature/get_avg_feature.py --SD ${sd}_class70 --feature-save "$out/feature_save"

step "3  New models on the 70 %, two at a time: by $methods, and without the old model (the paragon)"
two_at_a_time new_model paragon $methods

step "4  Evaluation: each model alone, and new queries against the old gallery; 1:1 and 1:N"
rm -rf "$out/ijbc_result"
evaluate old
two_at_a_time evaluate paragon $methods

step "Verdict"
python tools/verdict/verdict.py "$out/ijbc_result" --old old --new $methods --paragon paragon --out "$out"
step "done"
