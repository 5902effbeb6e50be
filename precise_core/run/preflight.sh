#!/bin/sh
# Says what is missing before anything is installed or started. Usage: preflight.sh [python]
set -u
python=${1:-python3.11}
failed=0
problem() { printf 'preflight: %s\n           %s\n' "$1" "$2" >&2; failed=1; }

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=none
[ "$version" = 3.11 ] || problem "Python 3.11 is needed, '$python' is: $version" \
  "Install Python 3.11 with its venv module (Debian: apt-get install python3.11-venv) or run make PYTHON=/path/to/python3.11"

[ "$version" != 3.11 ] || "$python" -c 'import venv, ensurepip' 2>/dev/null || problem "Python's venv module is missing" \
  "Install it (Debian: apt-get install python3.11-venv)"

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
java_version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
case "$java_version" in
  17 | 21) ;;
  *) problem "Java 17 or 21 is needed, '$java' is: ${java_version:-none}" \
    "Install a JDK (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME" ;;
esac

if [ -r /proc/meminfo ]; then
  free_gib=$(awk '/MemAvailable/ {printf "%d", $2 / 1048576}' /proc/meminfo)
  [ "$free_gib" -ge "${PRECISE_MIN_FREE_GIB:-8}" ] || problem "8 GiB of free memory are needed, free are: $free_gib GiB" \
    "Stop other programs, or set PRECISE_MIN_FREE_GIB lower if you know what you do"
fi

free_disk=$(df -Pk . | awk 'NR == 2 {printf "%d", $4 / 1048576}')
[ -d .venv ] || [ "$free_disk" -ge 12 ] || problem "12 GiB of free disk are needed for the environment, free are: $free_disk GiB" \
  "Free some space; torch's wheel carries CUDA and takes most of it"

[ "$failed" = 0 ] && echo "preflight: Python $version, Java $java_version, ${free_gib:-?} GiB memory free: fine"
exit "$failed"
