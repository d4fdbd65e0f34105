#!/usr/bin/env bash
# Prepares a Python environment with Spark, and what Spark and DuckDB need to read S3, outside the clone; prints its interpreter, or
# with arguments runs it:
#
#   scripts/spark.sh scripts/engines.py spark --store ./driftline-data/store
#
# A user of Spark gets the same by `spark-submit --packages org.apache.hadoop:hadoop-aws:…`, a user of DuckDB by `INSTALL httpfs`.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

have_java || die "Java 17 or newer is missing: scripts/setup.sh --tests installs it"
have mvn || die "Maven is missing: scripts/setup.sh --tests installs it"

export DRIFTLINE_VENV=${DRIFTLINE_SPARK_VENV:-$DRIFTLINE_CACHE/venv-spark}
export DRIFTLINE_REQUIREMENTS=$DRIFTLINE_ROOT/scripts/requirements-spark.txt
pom=$DRIFTLINE_ROOT/scripts/spark/pom.xml
python=$("$DRIFTLINE_ROOT/scripts/python.sh")
# Inside the environment: one that is made anew gets its jars and extensions anew.
jars=$DRIFTLINE_VENV/jars-$(cksum <"$pom" | cut -d ' ' -f 1)
extensions=$DRIFTLINE_VENV/duckdb-extensions

fetch_jars() { # fetch_jars FOLDER
  say "fetching Spark's jars for S3"
  mvn --batch-mode --quiet --file "$pom" dependency:copy-dependencies "-DoutputDirectory=$1" >&2 ||
    die "Maven could not fetch the jars of scripts/spark/pom.xml"
}

# DuckDB looks for an extension under its version and platform, which the packages do not know.
lay_extensions() { # lay_extensions FOLDER
  "$python" - "$1" >&2 <<'PYTHON'
import importlib.util, pathlib, shutil, sys
import duckdb

version, platform = duckdb.sql("SELECT library_version, platform FROM pragma_version(), pragma_platform()").fetchall()[0]
folder = pathlib.Path(sys.argv[1]) / version / platform
folder.mkdir(parents=True, exist_ok=True)
for name in ["httpfs", "aws"]:
    package = pathlib.Path(importlib.util.find_spec(f"duckdb_extension_{name}").origin).parent
    shutil.copy(package / "extensions" / version / f"{name}.duckdb_extension", folder)
PYTHON
}

make_once "$jars" fetch_jars
make_once "$extensions" lay_extensions

mkdir -p "$DRIFTLINE_VENV/conf"
cat >"$DRIFTLINE_VENV/conf/spark-defaults.conf.$$" <<CONF
spark.master                          local[2]
spark.ui.enabled                      false
spark.sql.shuffle.partitions          2
spark.driver.bindAddress              127.0.0.1
spark.driver.host                     127.0.0.1
spark.driver.extraJavaOptions         -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.jars                            $(printf '%s,' "$jars"/*.jar)
spark.hadoop.fs.s3a.path.style.access true
spark.hadoop.fs.s3a.endpoint.region    us-east-1
spark.hadoop.fs.s3a.input.stream.type  classic
CONF
mv "$DRIFTLINE_VENV/conf/spark-defaults.conf.$$" "$DRIFTLINE_VENV/conf/spark-defaults.conf"
# Spark's own default is to log every warning of its libraries.
cat >"$DRIFTLINE_VENV/conf/log4j2.properties" <<'LOG'
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
LOG

if [[ $# -gt 0 ]]; then exec "$python" "$@"; else printf '%s\n' "$python"; fi
