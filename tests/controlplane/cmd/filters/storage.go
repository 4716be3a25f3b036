package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	driverOne = "one.csi.example.com"
	driverTwo = "two.csi.example.com"
	// Says of a claim that it is bound for good.
	bindCompleted = "pv.kubernetes.io/bind-completed"
)

// Drivers that attach what Kubernetes once attached itself.
var migratedDrivers = []string{
	"pd.csi.storage.gke.io", "ebs.csi.aws.com", "disk.csi.azure.com", "cinder.csi.openstack.org", "pxd.portworx.com", "csi.vsphere.vmware.com",
}

// What claims are called. Not in every world and namespace are there all of them.
const (
	claimAlone   = "alone"
	claimMissing = "missing"
)

var claimNames = []string{"data-0", "data-1", "data-2", "data-3", claimAlone}

// oddClaims and waitingClaims keep a pod from every node; seldom asked for, so
// that the other filters are heard. Whoever is bound has its claims bound.
var (
	oddClaims     = []string{claimMissing, "lost", "deleted", "no-volume"}
	waitingClaims = []string{"half-bound", "waits"}
)

// storage makes the volumes, their claims and what nodes can attach.
func (d *dice) storage(w *world) error {
	if !d.often[claims] && !d.often[limits] && !d.often[disks] && !d.chance(30) {
		return nil
	}
	w.classes = []*storagev1.StorageClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: driverOne, VolumeBindingMode: ptr.To(storagev1.VolumeBindingImmediate)},
		{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Provisioner: driverOne, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)},
	}
	for _, node := range w.nodes {
		if d.chance(10) {
			continue
		}
		csi := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
		drivers := some(d, 1, 2, driverOne, driverTwo)
		if d.often[disks] || d.often[limits] {
			drivers = append(drivers, some(d, 0, 6, migratedDrivers...)...)
		}
		for _, name := range drivers {
			driver := storagev1.CSINodeDriver{Name: name, NodeID: node.Name}
			if d.often[limits] && d.chance(80) || d.chance(20) {
				driver.Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(pick[int32](d, 0, 1, 1, 2, 2, 3))}
			} else if d.chance(10) {
				driver.Allocatable = &storagev1.VolumeNodeResources{}
			}
			csi.Spec.Drivers = append(csi.Spec.Drivers, driver)
		}
		w.csiNodes = append(w.csiNodes, csi)
	}
	for _, namespace := range namespaceNames {
		for _, name := range claimNames {
			if d.chance(4) {
				continue
			}
			modes := pick(d, []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}, []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadOnlyMany})
			if name == claimAlone {
				modes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
			}
			volume, err := d.storedVolume(fmt.Sprintf("pv-%s-%s", namespace, name), modes)
			if err != nil {
				return err
			}
			w.volumes = append(w.volumes, volume)
			w.claims = append(w.claims, claim(namespace, name, volume.Name, modes))
		}
		anywhere := []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}
		lost := claim(namespace, "lost", "pv-lost", anywhere)
		lost.Status.Phase = v1.ClaimLost
		free, err := d.storedVolume("pv-free-"+namespace, anywhere)
		if err != nil {
			return err
		}
		deleted := claim(namespace, "deleted", free.Name, anywhere)
		deleted.DeletionTimestamp = &metav1.Time{Time: metav1.Unix(1_700_000_000, 0).Time}
		deleted.Finalizers = []string{"kubernetes.io/pvc-protection"}
		waits := claim(namespace, "waits", "", anywhere)
		waits.Spec.StorageClassName, waits.Annotations, waits.Status.Phase = ptr.To("now"), nil, v1.ClaimPending
		unbound := claim(namespace, "unbound", "", anywhere)
		unbound.Spec.StorageClassName, unbound.Annotations, unbound.Status.Phase = ptr.To("later"), nil, v1.ClaimPending
		half := claim(namespace, "half-bound", free.Name, anywhere)
		half.Annotations, half.Status.Phase = nil, v1.ClaimPending
		w.volumes = append(w.volumes, free)
		w.claims = append(w.claims, lost, deleted, waits, unbound, claim(namespace, "no-volume", "pv-nowhere", anywhere), half)
	}
	return nil
}

func claim(namespace, name, volume string, modes []v1.PersistentVolumeAccessMode) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{bindCompleted: "yes"}},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: volume, AccessModes: modes, StorageClassName: ptr.To("")},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound, AccessModes: modes},
	}
}

func (d *dice) storedVolume(name string, modes []v1.PersistentVolumeAccessMode) (*v1.PersistentVolume, error) {
	return anew(func() (*v1.PersistentVolume, error) { return storedVolume(d.volume(name, modes)) })
}

func (d *dice) volume(name string, modes []v1.PersistentVolumeAccessMode) *v1.PersistentVolume {
	volume := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec: v1.PersistentVolumeSpec{
			AccessModes: modes,
			Capacity:    v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeBound},
	}
	switch d.IntN(12) {
	case 0:
		volume.Spec.NFS = &v1.NFSVolumeSource{Server: "nfs", Path: "/"}
	case 1:
		volume.Spec.Local = &v1.LocalVolumeSource{Path: "/mnt"}
		volume.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{
				Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: some(d, 1, 3, "node-0", "node-1", "node-2", "node-3"),
			}},
		}}}}
	case 2, 3:
		disk := pick(d, "disk-1", "disk-2", "disk-3")
		switch d.IntN(6) {
		case 0:
			volume.Spec.GCEPersistentDisk = &v1.GCEPersistentDiskVolumeSource{PDName: disk}
		case 1:
			volume.Spec.AWSElasticBlockStore = &v1.AWSElasticBlockStoreVolumeSource{VolumeID: pick(d, disk, "aws://a/vol-12345678", "aws:///vol-12345678", "vol-12345678", "aws://a/"+disk)}
		case 2:
			volume.Spec.AzureDisk = &v1.AzureDiskVolumeSource{DiskName: disk, DataDiskURI: "/subscriptions/s/" + disk, Kind: ptr.To(v1.AzureManagedDisk)}
		case 3:
			volume.Spec.Cinder = &v1.CinderPersistentVolumeSource{VolumeID: disk}
		case 4:
			volume.Spec.PortworxVolume = &v1.PortworxVolumeSource{VolumeID: disk}
		default:
			volume.Spec.VsphereVolume = &v1.VsphereVirtualDiskVolumeSource{VolumePath: disk}
		}
	default:
		handle := name
		if d.chance(15) {
			handle = "shared"
		}
		volume.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: pick(d, driverOne, driverOne, driverTwo), VolumeHandle: handle}
		if d.about(claims) {
			terms := []v1.NodeSelectorTerm{}
			for range 1 + d.IntN(2) {
				terms = append(terms, d.term(true))
			}
			volume.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: terms}}
		}
	}
	if d.about(claims) {
		key := pick(d, labelZone, labelZone, labelRegion, labelBetaZone, labelBetaRegion)
		values := pick(d, "a", "b", "a__b", "b__c", "a____b", "d")
		if key == labelRegion || key == labelBetaRegion {
			values = pick(d, "x", "y", "x__y")
		}
		if volume.Spec.GCEPersistentDisk != nil {
			// Several zones are one region, which is told from names of GCE.
			values = "a"
		}
		volume.Labels[key] = values
	}
	return volume
}

// diskVolumes are volumes in the pod itself that not every pod may share.
func (d *dice) diskVolumes() []v1.VolumeSource {
	var sources []v1.VolumeSource
	name := pick(d, "disk-1", "disk-2", "disk-3")
	switch d.IntN(10) {
	case 0, 4:
		sources = append(sources, v1.VolumeSource{GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{PDName: name, ReadOnly: d.chance(50)}})
	case 1, 5:
		if d.chance(20) {
			name = pick(d, "aws://a/vol-12345678", "aws:///vol-12345678", "vol-12345678")
		}
		sources = append(sources, v1.VolumeSource{AWSElasticBlockStore: &v1.AWSElasticBlockStoreVolumeSource{VolumeID: name, ReadOnly: d.chance(50)}})
	case 6:
		sources = append(sources, v1.VolumeSource{AzureDisk: &v1.AzureDiskVolumeSource{
			DiskName: name, DataDiskURI: "/subscriptions/s/" + name, Kind: ptr.To(v1.AzureManagedDisk),
		}})
	case 7:
		sources = append(sources, pick(d,
			v1.VolumeSource{Cinder: &v1.CinderVolumeSource{VolumeID: name}},
			v1.VolumeSource{PortworxVolume: &v1.PortworxVolumeSource{VolumeID: name}},
			v1.VolumeSource{VsphereVolume: &v1.VsphereVirtualDiskVolumeSource{VolumePath: name}},
		))
	case 2, 8:
		sources = append(sources, v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{
			TargetPortal: "10.0.0.1:3260", IQN: "iqn.2001-04.com.example:" + name, Lun: int32(d.IntN(2)), ReadOnly: d.chance(50),
		}})
	default:
		sources = append(sources, v1.VolumeSource{RBD: &v1.RBDVolumeSource{
			CephMonitors: some(d, 1, 2, "m1:6789", "m2:6789", "m3:6789"), RBDImage: name, RBDPool: pick(d, "", "fast"), ReadOnly: d.chance(50),
		}})
	}
	if d.chance(10) {
		sources = append(sources, v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}})
	}
	return sources
}
