package main

import (
	"encoding/binary"
	"io"
	"strings"
)

// A stream of frames: length of what follows (32 bits, little endian), then
// records of a kind (one byte), a length (32 bits) and that many bytes. The
// first frame holds the names of the filters, each other one a world. Objects
// are Kubernetes' protobuf messages, without the envelope of the API server.
const (
	// Names of the filters, a line each.
	recordNames = iota
	// Number of the world, 64 bits.
	recordWorld
	recordNamespace
	recordNode
	recordPersistentVolume
	recordPersistentVolumeClaim
	recordStorageClass
	recordCSINode
	// A pod that is bound, or has ended.
	recordBound
	// A pod to judge.
	recordPod
	// Of the pod before it: for each node, in their order, which filters say
	// no (32 bits).
	recordVerdicts
)

type message interface{ Marshal() ([]byte, error) }

func record(frame []byte, kind byte, content []byte) []byte {
	frame = append(frame, kind)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(content)))
	return append(frame, content...)
}

func header(names []string) []byte {
	return record(nil, recordNames, []byte(strings.Join(names, "\n")))
}

// frame judges the world and writes it down.
func (w *world) frame(judge *judge) ([]byte, error) {
	verdicts, err := judge.judge(w)
	if err != nil {
		return nil, err
	}
	frame := record(nil, recordWorld, binary.LittleEndian.AppendUint64(nil, w.number))
	add := func(kind byte, object message) {
		content, wrong := object.Marshal()
		if wrong != nil {
			err = wrong
		}
		frame = record(frame, kind, content)
	}
	for _, object := range w.namespaces {
		add(recordNamespace, object)
	}
	for _, object := range w.nodes {
		add(recordNode, object)
	}
	for _, object := range w.volumes {
		add(recordPersistentVolume, object)
	}
	for _, object := range w.claims {
		add(recordPersistentVolumeClaim, object)
	}
	for _, object := range w.classes {
		add(recordStorageClass, object)
	}
	for _, object := range w.csiNodes {
		add(recordCSINode, object)
	}
	for _, object := range w.bound {
		add(recordBound, object)
	}
	for i, object := range w.pods {
		add(recordPod, object)
		var row []byte
		for _, verdict := range verdicts[i] {
			row = binary.LittleEndian.AppendUint32(row, uint32(verdict))
		}
		frame = record(frame, recordVerdicts, row)
	}
	return frame, err
}

func writeFrame(out io.Writer, frame []byte) error {
	if _, err := out.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(frame)))); err != nil {
		return err
	}
	_, err := out.Write(frame)
	return err
}
