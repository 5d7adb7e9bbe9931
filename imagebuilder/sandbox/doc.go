// Package sandbox runs a command with nothing but what it was given: an argv
// without a shell, a clean environment, a work folder of its own, limits on
// time and silence, and a private writable view of a read-only tree.
//
// Every command runs below a small supervisor: this binary, started again
// under another name (see [Init]). The supervisor is the command's parent and
// ends everything the command started when the command exits, when it is told
// to, and when its own parent is gone, so that no build outlives the server.
// Where the system allows it the supervisor is the first process of its own
// PID and mount namespaces; the kernel then ends what it leaves behind.
package sandbox
