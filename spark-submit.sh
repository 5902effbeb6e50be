#!/usr/bin/env bash
# Submit one of our jobs: finds the environment, adds the Delta package and ships our packages to the executors.
#
#   ./spark-submit.sh [spark-submit flags] jobs/build_sequences.py --config conf/demo.yaml [job flags]
#   ./spark-submit.sh --master 'local-cluster[2,1,1024]' jobs/embed_users.py --config conf/demo.yaml
#
# Every flag goes to spark-submit as it is. PRECISE_VENV names another environment than .venv or the active one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for environment in "${PRECISE_VENV:-}" "$root/.venv" "${VIRTUAL_ENV:-}"; do
  if [[ -n $environment && -x $environment/bin/spark-submit ]]; then break; fi
  environment=
done
if [[ -z $environment ]]; then
  echo "spark-submit.sh: no environment with PySpark in $root/.venv; run \`make install\` first, or set PRECISE_VENV" >&2
  exit 2
fi
if [[ $# -eq 0 || $1 == --help || $1 == -h ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi

export PYSPARK_PYTHON="$environment/bin/python" PYSPARK_DRIVER_PYTHON="$environment/bin/python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# Java takes the encoding of file names from the locale; under cron there is none, and `ä` would become `?`.
case "$(locale charmap 2>/dev/null)" in UTF-8 | utf8) ;; *) export LC_ALL=C.UTF-8 ;; esac
# The environment's own PySpark, not another Spark that a shell profile points to; PySpark's own search for it fails
# below a folder with a blank. No flags where `make install` has put the jars beside it: naming them twice is an error.
{ read -r SPARK_HOME; read -r -a delta; } < <("$environment/bin/python" -m precise_core.warehouse.install --show)
export SPARK_HOME
# Without a log4j2.properties of one's own Spark would write every step of its start to the terminal.
if [[ ! -f ${SPARK_CONF_DIR:-$SPARK_HOME/conf}/log4j2.properties ]]; then
  quiet="-Dlog4j2.configurationFile=\"$root/precise_core/warehouse/log4j2.properties\""
  export SPARK_SUBMIT_OPTS="$quiet ${SPARK_SUBMIT_OPTS:-}"
fi
archive=$("$environment/bin/python" -m precise_core.run.code "$root/build/precise-py-files.zip")
exec "$SPARK_HOME/bin/spark-submit" "${delta[@]}" --py-files "$archive" "$@"
