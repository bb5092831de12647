#!/bin/sh
# Pulls the model that a lock file names, tunes it, and fails if its accuracy is too low.
#
#   GENEBANK_SERVER  server to pull from, for example http://127.0.0.1:8080 (required)
#   GENEBANK_TOKEN   token that opens a private gene
#   GENEBANK_DATA    folder of data sets (required)
#   GENE             name of the gene (fashion-s)
#   DEPTH, WIDTH     size of the model (the gene's trained size)
#   LABELS           classes of the model: names separated by commas, or @FILE with one name per line (the gene's)
#   DATASET          name of the data set (fashion-mnist)
#   EPOCHS           passes over its training part (1)
#   THRESHOLD        minimum accuracy on its test part, 0 to 1 (0.85)
#   MODEL            file for the pulled model (model.safetensors); the lock file must name it
#   LOCK             the lock file (genebank.lock); write it with `genebank init ... --lock`, and commit it
#   TUNED            file for the tuned model (tuned.safetensors)
#   GENEBANK         the program (genebank)
#
# Exit status: 0 if the accuracy is high enough, 1 if it is too low, otherwise the status of the command that failed.
set -eu

: "${GENEBANK_SERVER:?names the server}" "${GENEBANK_DATA:?names the folder of data sets}"
genebank=${GENEBANK:-genebank}
model=${MODEL:-model.safetensors}
tuned=${TUNED:-tuned.safetensors}
dataset=${DATASET:-fashion-mnist}
threshold=${THRESHOLD:-0.85}

# awk would compare a value that is not a number as text, and the check could then pass by accident.
case $threshold in
    '' | . | *[!0-9.]* | *.*.*)
        echo "THRESHOLD=$threshold is no number" >&2
        exit 2
        ;;
esac

# Either the bytes that the lock file records, or no file.
"$genebank" init "${GENE:-fashion-s}" ${DEPTH:+--depth "$DEPTH"} ${WIDTH:+--width "$WIDTH"} \
    ${LABELS:+--labels "$LABELS"} \
    --server "$GENEBANK_SERVER" --locked --lock="${LOCK:-genebank.lock}" -o "$model"

"$genebank" finetune "$model" --dataset "$dataset" --epochs "${EPOCHS:-1}" -o "$tuned"

report=$("$genebank" eval "$tuned" --dataset "$dataset" --json)
echo "$report"
accuracy=$(echo "$report" | sed -n 's/^ *"accuracy": *\([0-9.eE+-]*\),\{0,1\}$/\1/p')
if [ -z "$accuracy" ]; then
    echo "no accuracy in the report" >&2
    exit 1
fi

if awk -v accuracy="$accuracy" -v threshold="$threshold" 'BEGIN { exit !(accuracy + 0 >= threshold + 0) }'; then
    echo "accuracy $accuracy is at least $threshold"
else
    echo "accuracy $accuracy is below $threshold" >&2
    exit 1
fi
