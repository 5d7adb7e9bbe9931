#!/usr/bin/perl
# Does the steps of the Makefile that it is given, up to the first that fails.
# What a step leaves for the next lies in the tree, as with the real
# ImageBuilder.
use strict;
use warnings;

our $too_big_words;    # file descriptor 8, where the real one's "too big" goes

BEGIN { open($too_big_words, '>>&=', 8) or undef $too_big_words; }

use Sample::Tree;
use Sample::Image;
use Sample::Rootfs;

$| = 1;
$ENV{LC_ALL} = 'C';
delete $ENV{SOURCE_DATE_EPOCH};    # mksquashfs wants it told once

my $tree = Sample::Tree->new($ENV{TOPDIR} // '.');

sub manager {
    my $class = $tree->{apk} ? 'Sample::Apk' : 'Sample::Opkg';
    (my $file = "$class.pm") =~ s{::}{/}g;
    require $file;
    return $class->new($tree);
}

my %steps = (
    help                     => sub { $tree->help },
    info                     => sub { $tree->info },
    clean                    => sub { $tree->clean },
    check_profile            => sub { $tree->check_profile },
    check_keys               => sub { $tree->{apk} or Sample::Rootfs::local_key($tree); 0 },
    check_rootfs_filesystem  => sub { $tree->check_rootfs_filesystem },
    prerequisites            => sub { $tree->prerequisites },
    announce                 => sub { $tree->announce },
    wipe                     => sub { $tree->wipe },
    need_package             => sub { $tree->need_package($ENV{STEP}) },
    package_reload           => sub { manager()->reload },
    package_install          => sub { manager()->install },
    package_list_installed   => sub { manager()->print_manifest(\*STDOUT, $ENV{STRIP_ABI}) },
    package_depends          => sub { manager()->depends($ENV{PACKAGE}) },
    package_whatdepends      => sub { manager()->whatdepends($ENV{PACKAGE}) },
    package_list             => sub { manager()->list },
    prepare_rootfs           => sub { Sample::Rootfs::prepare($tree, manager()) },
    build_image              => sub { Sample::Image::build($tree, manager(), $too_big_words) },
    json_overview_image_info => sub { Sample::Image::overview($tree) },
    checksum                 => sub { Sample::Image::checksum($tree) },
);
for my $step (@ARGV) {
    my $do = $steps{$step} or die "no such step: $step\n";
    my $code = $do->();
    exit $code if $code;
}
