#!/bin/sh
# compile.sh FOLDER nvcc ...: runs nvcc, keeps in FOLDER/NAME.ptxas what ptxas says of the registers and spills of each
# kernel, and prints what else is said.
folder=$1
shift
for argument; do
  case $argument in *.cu) name=$(basename "$argument" .cu) ;; esac
done
mkdir -p "$folder"
report=$folder/${name:-other}.ptxas
"$@" >"$report" 2>&1
status=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' "$report"
exit $status
