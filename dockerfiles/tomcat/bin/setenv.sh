# Sourced by catalina.sh. What a container sets in CATALINA_OPTS or JAVA_OPTS comes later on the command line and wins.

# The heap follows the container's memory limit; the rest is for metaspace, threads and direct buffers.
# A server without memory is not a server: it ends, and whoever runs the container starts a new one.
CATALINA_OPTS="-XX:MaxRAMPercentage=70 -XX:+ExitOnOutOfMemoryError ${CATALINA_OPTS:-}"

# Its own temporary folder is the container's; there is no other place where this server may write.
CATALINA_TMPDIR=/tmp
