// Package imagebuilder is attendant's vocabulary: what a router asks for, what
// becomes of it, and how a failure is told. It uses the standard library only
// and every other package may import it.
package imagebuilder
