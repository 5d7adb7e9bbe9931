package store

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// ReleaseMemory lets the kernel take back the memory that shows the
// database's file to this process. What is read again comes from the page
// cache or the disk. It is worth a call after everything has been read once.
func (db *DB) ReleaseMemory() error {
	// Within a transaction the file stays mapped where it is.
	return db.bolt.View(func(tx *bolt.Tx) error {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, db.bolt.Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("releasing the database's memory: %w", errno)
		}
		return nil
	})
}
