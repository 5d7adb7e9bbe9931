# Makes the images of a profile and what stands beside them.
package Sample::Image;
use strict;
use warnings;
use Sample::Archive;
use Sample::Json;
use Sample::Rootfs;
use Sample::Tree;

# run starts a program with its stdout on ours and returns its exit code.
sub run {
    my ($out, @command) = @_;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDOUT, '>', $out or die "$out: $!\n" if defined $out;
        exec @command or exit 127;
    }
    waitpid $pid, 0;
    return $? >> 8 || ($? ? 1 : 0);
}

sub names {
    my ($tree) = @_;
    my $config  = $tree->{config};
    my $profile = $tree->profile->{id};
    my $extra   = lc($ENV{EXTRA_IMAGE_NAME} // '');
    $extra =~ s/[_ ]+/-/g;
    my @parts = ('openwrt');
    push @parts, $config->{VERSION_NUMBER} if ($config->{VERSION_FILENAMES} // '') eq 'y';
    push @parts, $extra if $extra ne '';
    push @parts, $tree->{board}, $tree->{subtarget};
    return (join('-', @parts), $profile);
}

sub build {
    my ($tree, $manager, $too_big_words) = @_;
    print "\nBuilding images...\n";
    slow($tree->{config}{SAMPLE_SLOW} // 0);
    my ($prefix, $profile) = names($tree);
    my $device  = $tree->device;
    my $scratch = "$tree->{linux}/tmp";
    system 'rm', '-rf', $scratch, "$tree->{build}/json_info_files", glob "$tree->{linux}/root.*";
    Sample::Tree::make_folder($_) for $scratch, "$tree->{build}/json_info_files";
    if ("$prefix-$profile" =~ m{/}) {
        print STDERR "cp: cannot create regular file '$scratch/$prefix-$profile': No such file or directory\n";
        return 1;
    }
    my $bin = $tree->{bin};    # a relative one is taken from where the real one's recipes run
    my $images = $bin =~ m{^/} ? $bin : "$tree->{top}/target/linux/$tree->{board}/image/$bin";
    Sample::Tree::make_folder($_) for $images, $bin =~ m{^/} ? $bin : "$tree->{top}/$bin";

    my %root = (tar => "$tree->{linux}/root.tar");
    my $want = $tree->wanted_filesystem;
    my @filesystems = grep { $_ ne 'targz' && (!defined $want || $_ eq $want) } $tree->filesystems;
    my $archive = $tree->{board} eq 'x86' && grep { $_ eq 'targz' } $tree->filesystems;
    if ($archive || (grep { $_ eq 'ext4' } @filesystems) || !Sample::Tree::in_path('mksquashfs')) {
        run(undef, 'tar', '--sort=name', "--mtime=\@$tree->{epoch}", '--owner=0', '--group=0', '--numeric-owner', '-cf', $root{tar}, '-C', $tree->{root}, '.') == 0 or return 1;
    }
    for (@filesystems) {
        $root{$_} = "$tree->{linux}/root.$_";
        my $code = $_ eq 'ext4' ? ext4($tree, $root{tar}, $root{$_}) : squashfs($tree, $root{tar}, $root{$_});
        return $code if $code;
    }

    my $vmlinuz = "$tree->{top}/$tree->{config}{SAMPLE_KERNEL}";
    my $kernel = Sample::Tree::read_file($vmlinuz) // die "no kernel\n";
    my $mode = (stat $vmlinuz)[2] & 07777;
    my @made;
    for my $filesystem (sort @filesystems) {
        my $content = Sample::Tree::read_file($root{$filesystem});
        for (split ' ', $device->{Images}) {
            my ($type, $ext) = split /\./, $_, 2;
            my $file = "$scratch/$prefix-$profile-$filesystem-$type.$ext";
            Sample::Tree::write_file($file, image($device, $type, $kernel, $mode, $content), 0644);
            my $json = { file => $file, filesystem => $filesystem, type => $type };
            if (too_big($device, $file, $too_big_words)) {
                print "Skip JSON creation for non existing file $file\n";
                next;
            }
            push @made, $json;
        }
    }
    pack_images($tree, $images, @made);
    remember($tree, $_) for @made;
    beside($tree, $manager, $images, $prefix, $profile, $archive && $root{tar});
    return 0;
}

# image puts the parts of an image together: a header that names its kind,
# the kernel, the root file system, padding as flash sectors want it. A boot
# partition keeps the kernel's mode, as the real one's copy does.
sub image {
    my ($device, $type, $kernel, $mode, $root) = @_;
    return $root   if $type eq 'rootfs';
    return $kernel if $type eq 'kernel';
    my $head = pack 'a512', $type eq 'sysupgrade' ? '' : "OpenWrt sample image: $type for $device->{Device}";
    if ($device->{Partition}) {
        substr($head, 504, 6) = sprintf '%06o', $mode;
        substr($head, 510, 2) = "\x55\xaa";
        return $head . $kernel . $root;
    }
    $head = '' if $type eq 'sysupgrade';
    my $sector = 65536;
    $kernel .= "\xff" x (-length($kernel) % $sector);
    $root   .= "\xff" x (-length($root) % $sector);
    return $head . $kernel . $root;
}

# too_big checks a device's flash. As with the real one the image goes and the
# build goes on.
sub too_big {
    my ($device, $file, $words) = @_;
    my $limit = $device->{Limit} // return;
    my $size  = -s $file;
    return if $size <= $limit;
    if (($device->{Tool} // '') eq 'mktplinkfw') {
        print STDERR '[mktplinkfw] *** error: images are too big by ', $size - $limit, " bytes\n";
    }
    elsif ($words) {
        syswrite $words, "    WARNING: Image file $file is too big: $size > $limit\n";
    }
    else { print STDERR "/bin/sh: 1: 8: Bad file descriptor\n" }
    unlink $file;
    print STDERR "Failed to open firmware file\nsha256sum: $file: No such file or directory\n";
    print STDERR "cp: cannot stat '$file': No such file or directory\n";
    return 1;
}

# squashfs packs the root. File data is not compressed, so that a package's
# size is the flash that it takes. Without mksquashfs it is a tar.gz, which is
# not compressed either.
sub squashfs {
    my ($tree, $tar, $file) = @_;
    if (!Sample::Tree::in_path('mksquashfs')) {
        Sample::Tree::write_file($file, Sample::Archive::store(Sample::Tree::read_file($tar), $tar));
        return 0;
    }
    return run('/dev/null', 'mksquashfs', $tree->{root}, $file, qw(-noappend -all-root -no-progress -no-xattrs -no-sparse -noD -noF -processors 1),
        '-mkfs-time', $tree->{epoch}, '-all-time', $tree->{epoch});
}

# ext4 checks that the root fits into its partition. What it makes is a tar
# file under that name.
sub ext4 {
    my ($tree, $tar, $file) = @_;
    my $size = length($ENV{ROOTFS_PARTSIZE} // '') ? $ENV{ROOTFS_PARTSIZE} : $tree->{config}{TARGET_ROOTFS_PARTSIZE};
    if ($size !~ /^\d+$/ || $size == 0) {
        print STDERR "Need size of filesystem\n";
        return 1;
    }
    my ($inodes, $blocks) = (16, 1024);    # reserved ones; the journal
    open(my $list, '-|', 'find', $tree->{root}, '-printf', '%s\n') or die "find: $!\n";
    while (my $bytes = <$list>) { $inodes++; $blocks += int(($bytes + 4095) / 4096) }
    close $list;
    print "Creating filesystem with parameters:\n    Size: ", $size << 20, "\n    Block size: 4096\n    Blocks: ", $size << 8, "\n";
    if ($inodes > $size * 64) {
        print STDERR "error: make_file: failed to allocate inode\n";
        return 1;
    }
    if ((my $over = $blocks - ($size << 8)) > 0) {
        print STDERR "error: ext4_allocate_best_fit_partial: failed to allocate $over blocks, out of space?\n";
        return 1;
    }
    link $tar, $file or die "$file: $!\n";
    return 0;
}

# pack_images signs images where that is the generation's way, compresses
# those that end in .gz and puts all in place.
sub pack_images {
    my ($tree, $images, @made) = @_;
    my $profile = $tree->profile;
    for my $image (@made) {
        my ($name) = $image->{file} =~ m{([^/]+)$};
        $image->{name} = $name;
        if ($name =~ /\.gz$/) {
            run("$image->{file}.packed", 'gzip', '-n', '-1', '-c', $image->{file}) == 0 or die "gzip failed\n";
            rename "$image->{file}.packed", $image->{file} or die "$image->{file}: $!\n";
        }
    }
    my $unsigned = Sample::Tree::sums(map { $_->{file} } @made);
    if (!$tree->{apk}) {
        Sample::Rootfs::local_key($tree);
        my $key = Sample::Tree::read_file("$tree->{top}/key-build");
        for (@made) {
            next if $_->{type} eq 'rootfs' || $_->{type} eq 'kernel' || $_->{type} eq 'factory';
            open(my $out, '>>:raw', $_->{file}) or die "$_->{file}: $!\n";
            print $out "\nsample signature ", substr($key, 0, 16), ' ', $unsigned->{ $_->{file} }, "\n";
            close $out or die "$_->{file}: $!\n";
        }
    }
    my $signed = Sample::Tree::sums(map { $_->{file} } @made);
    for (@made) {
        $_->{sha256}          = $signed->{ $_->{file} };
        $_->{sha256_unsigned} = $unsigned->{ $_->{file} };
        $_->{size}            = -s $_->{file};
    }
    system('cp', '--', (map { $_->{file} } @made), "$images/") == 0 or die "cp failed\n" if @made;
    return;
}

# remember leaves the facts of an image for the overview.
sub remember {
    my ($tree, $image) = @_;
    my %facts = map { $_ => $image->{$_} } qw(filesystem name sha256 sha256_unsigned type);
    $facts{size} = \"$image->{size}" if $tree->{apk};
    Sample::Tree::write_file("$tree->{build}/json_info_files/$image->{name}.json", Sample::Json::encode(\%facts), 0644);
    return;
}

# beside writes kernel, root archive, manifest and bill of materials.
sub beside {
    my ($tree, $manager, $images, $prefix, $profile, $tar) = @_;
    my $lower = lc $profile;
    if ($tree->{board} eq 'x86') {
        system 'cp', '--', "$tree->{top}/$tree->{config}{SAMPLE_KERNEL}", "$images/$prefix-$profile-kernel.bin";
        run("$images/$prefix-$profile-rootfs.tar.gz", 'gzip', '-n', '-1', '-c', $tar) if $tar;
        if ($tree->{apk} && $tar) {
            my $name = "$prefix-$profile-targz-rootfs.tar.gz";
            system 'cp', '--', "$images/$prefix-$profile-rootfs.tar.gz", "$images/$name";
            my $sum = Sample::Tree::sums("$images/$name")->{"$images/$name"};
            remember($tree, { filesystem => 'targz', name => $name, sha256 => $sum, sha256_unsigned => $sum, type => 'rootfs', size => -s "$images/$name" });
        }
    }
    open(my $out, '>', "$images/$prefix-$lower.manifest") or die "$images/$prefix-$lower.manifest: $!\n";
    $manager->print_manifest($out, 0);
    close $out;
    my @components = map { { type => 'library', name => $_->{plain}, version => $_->{version} } } sort { $a->{name} cmp $b->{name} } $manager->installed;
    Sample::Tree::write_file("$images/$prefix-$lower.bom.cdx.json",
        Sample::Json::encode({ bomFormat => 'CycloneDX', specVersion => '1.4', version => \'1', components => \@components }) . "\n", 0644);
    return;
}

# overview writes profiles.json. One that is there with the same version_code
# is merged into.
sub overview {
    my ($tree) = @_;
    my $config = $tree->{config};
    my $bin = $tree->{bin} =~ m{^/} ? $tree->{bin} : "$tree->{top}/$tree->{bin}";
    my @images = map { Sample::Json::decode(Sample::Tree::read_file($_)) } sort glob "$tree->{build}/json_info_files/*.json";
    if (!@images) {
        print "JSON info file script could not find any JSON files for target\n";
        return 0;
    }
    my ($prefix, $id) = names($tree);
    my ($profile, $device) = ($tree->profile, $tree->device);
    my %info = (
        arch_packages     => $tree->{arch_packages},
        default_packages  => [ sort @{ $tree->{defaults} } ],
        linux_kernel      => { release => '1', vermagic => $config->{LINUX_VERMAGIC}, version => $config->{LINUX_VERSION} },
        metadata_version  => \'1',
        profiles          => {},
        source_date_epoch => \"$tree->{epoch}",
        target            => $tree->{target},
        version_code      => $config->{VERSION_CODE},
        version_number    => $config->{VERSION_NUMBER},
    );
    my $old = Sample::Json::decode(Sample::Tree::read_file("$bin/profiles.json") // '');
    if (ref $old eq 'HASH' && ($old->{version_code} // '') eq $info{version_code} && ref $old->{profiles} eq 'HASH') {
        $info{profiles} = $old->{profiles};
    }
    my %new = map { $_->{name} => 1 } @images;
    my $before = $info{profiles}{$id}{images} // [];
    $info{profiles}{$id} = {
        device_packages   => $profile->{packages},
        image_prefix      => "$prefix-$id",
        images            => [ (grep { !$new{ $_->{name} } } @$before), @images ],
        supported_devices => $profile->{devices},
        titles            => [ { vendor => $device->{Vendor}, model => $device->{Model} } ],
    };
    $info{profiles}{$id}{file_size_limits} = { image => \"$device->{Limit}" } if $tree->{apk} && $device->{Limit};
    Sample::Tree::write_file("$bin/profiles.json", Sample::Json::encode(\%info), 0644);
    return 0;
}

sub checksum {
    my ($tree) = @_;
    my $bin = $tree->{bin} =~ m{^/} ? $tree->{bin} : "$tree->{top}/$tree->{bin}";
    print "\nCalculating checksums...\n";
    opendir(my $folder, $bin) or die "$bin: $!\n";
    my @names = sort grep { $_ ne 'sha256sums' && -f "$bin/$_" } readdir $folder;
    my $sums = Sample::Tree::sums(map { "$bin/$_" } @names);
    Sample::Tree::write_file("$bin/sha256sums", join('', map { $sums->{"$bin/$_"} . " *$_\n" } @names), 0644);
    return 0;
}

# slow waits, and says so, for tests that want to catch a build half-way.
sub slow {
    my ($left) = @_;
    while ($left > 0) {
        my $step = $left < 1 ? $left : 1;
        printf "Still building: %.1f s to go.\n", $left;
        select undef, undef, undef, $step;
        $left -= $step;
    }
    return;
}

1;
