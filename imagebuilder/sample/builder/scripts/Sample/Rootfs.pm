# Turns the installed packages into the root file system of an image.
package Sample::Rootfs;
use strict;
use warnings;
use Sample::Tree;

sub prepare {
    my ($tree, $manager) = @_;
    my $root = $tree->{root};
    print "\nFinalizing root filesystem...\n";
    # Links are enough: nothing here reads it again.
    if (system('cp', '-al', '--', $root, "$root.orig")) {
        system 'rm', '-rf', '--', "$root.orig";
        system('cp', '-a', '--', $root, "$root.orig") == 0 or return 1;
    }
    my $files = $ENV{FILES} // '';
    $files = "$tree->{top}/$files" if $files ne '' && $files !~ m{^/};
    if ($files ne '' && -d $files) {
        system('cp', '-pR', '--remove-destination', '--', "$files/.", "$root/") == 0 or return 1;
    }
    if (($ENV{ADD_LOCAL_KEY} // '') ne '') {
        my $keys = $tree->{apk} ? "$root/etc/apk/keys" : "$root/etc/opkg/keys";
        my $fingerprint = local_key($tree);
        Sample::Tree::make_folder($keys);
        Sample::Tree::write_file("$keys/$fingerprint", Sample::Tree::read_file("$tree->{top}/keys/$fingerprint") // '', 0644);
    }
    for my $script ($manager->postinsts) {
        my $code = run_script($root, $script);
        if ($code) {
            print STDERR "postinst script ./$script has failed with exit code $code\n";
            return 1;
        }
    }
    enable($root);
    system('rm', '-rf', "$root/tmp", "$root/var/lock");
    Sample::Tree::make_folder("$root/$_") for qw(dev proc sys tmp overlay root mnt);
    return 0;
}

# run_script runs a package's script on this host, as the real one does.
sub run_script {
    my ($root, $script) = @_;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        $ENV{IPKG_INSTROOT} = $ENV{PKG_ROOT} = $root;
        chdir $root or exit 126;
        exec 'sh', "./$script", 'configure' or exit 127;
    }
    waitpid $pid, 0;
    return $? >> 8 || ($? ? 1 : 0);
}

# enable links the init scripts into /etc/rc.d.
sub enable {
    my ($root) = @_;
    my %disabled = map { $_ => 1 } split ' ', $ENV{DISABLED_SERVICES} // '';
    opendir(my $folder, "$root/etc/init.d") or return;
    for my $name (sort readdir $folder) {
        next if $name =~ /^\./;
        my $text = Sample::Tree::read_file("$root/etc/init.d/$name") // next;
        next if $text !~ m{^#!/bin/sh /etc/rc\.common};
        if ($disabled{$name}) { print "Disabling $name\n"; next }
        print "Enabling $name\n";
        my ($start) = $text =~ /^START=(\d+)/m or next;
        Sample::Tree::make_folder("$root/etc/rc.d");
        symlink "../init.d/$name", "$root/etc/rc.d/S$start$name";
    }
    return;
}

# local_key makes the builder's own key on first use and returns its
# fingerprint. It is a stand-in: random bytes that nothing verifies.
sub local_key {
    my ($tree) = @_;
    my $top = $tree->{top};
    my $own = Sample::Tree::read_file("$top/key-build.pub");
    if (!defined $own || !-e "$top/key-build") {
        open(my $random, '<:raw', '/dev/urandom') or die "/dev/urandom: $!\n";
        read $random, my $secret, 32;
        $own = "untrusted comment: Local build key " . unpack('H16', $secret) . "\n";
        Sample::Tree::write_file("$top/key-build",       unpack('H*', $secret) . "\n", 0600);
        Sample::Tree::write_file("$top/key-build.pub",   $own,                         0644);
        Sample::Tree::write_file("$top/key-build.ucert", $own,                         0644);
    }
    my ($fingerprint) = $own =~ /([0-9a-f]{16})/ or die "$top/key-build.pub is damaged\n";
    Sample::Tree::write_file("$top/keys/$fingerprint", $own, 0644) if !-e "$top/keys/$fingerprint";
    return $fingerprint;
}

1;
